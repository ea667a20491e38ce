"""Retrieval, chains and counting by length, after six tasks of RULER, made here: no data set is downloaded."""
