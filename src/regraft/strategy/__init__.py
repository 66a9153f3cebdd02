"""Plans as text and as recipes: read, changed, written and described; nothing here runs one."""
