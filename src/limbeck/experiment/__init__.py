"""Recipes, runs and their folders."""
