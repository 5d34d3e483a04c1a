"""Pure rules: the requests of a SecretProviderClass, the decoding of values, the decision about a Secret."""
