"""The tensors of each kind of published file, and the parameters that they fill."""
