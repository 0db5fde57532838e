"""Retrieval by class, and of the landmarks of revisited Oxford and Paris."""
