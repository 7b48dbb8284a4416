"""The wire: protocol buffers and the code generated from them."""
