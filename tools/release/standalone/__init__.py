"""Tools as single files, for machines without a checkout: zipapps and the kubectl plugin."""
