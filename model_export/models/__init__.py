"""Networks: ResNet, the Visual Transformer module, VT-ResNet, FPN, VT-FPN; and their registry."""
