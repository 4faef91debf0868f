"""The intermediate graph: TFLite operators with what is known of each tensor, as plain Python values."""
