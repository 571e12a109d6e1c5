# being built
