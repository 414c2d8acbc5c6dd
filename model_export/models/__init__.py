"""The networks, small to large: ResNet, the Visual Transformer module, VT-ResNet, FPN, VT-FPN."""
