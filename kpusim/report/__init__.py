"""Results as tables and JSON: what each operator took, what bounds it, and how far it is from the roofline."""
