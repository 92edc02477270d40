"""Packages that `zoo plugins new` writes, from the templates in this folder."""
