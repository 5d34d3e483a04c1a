"""Mutation testing of `controller/`: which changes of its code do the unit tests notice?"""
