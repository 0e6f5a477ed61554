"""The models, one file each; the file is the registration and its name is the model's word."""
