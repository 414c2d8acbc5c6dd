"""Images as bytes and pixels, and masks from labels; pure functions."""
