"""Pictures, tables and text, from numbers."""
