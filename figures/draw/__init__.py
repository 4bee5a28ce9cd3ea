"""From numbers to pictures, tables and text."""
