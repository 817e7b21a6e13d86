"""Runs at ``import recbole_kd``: no other module is imported before RecBole or a public name is used."""
