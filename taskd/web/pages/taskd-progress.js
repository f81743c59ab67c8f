/** `<taskd-progress task="…">`: the progress of a task, in any page. */
