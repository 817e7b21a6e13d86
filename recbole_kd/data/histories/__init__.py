"""Histories of users as the queries of sequential models."""
