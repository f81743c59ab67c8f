"""``taskd drill``: kills workers, nodes and the link to the store under load; nothing may be lost."""
