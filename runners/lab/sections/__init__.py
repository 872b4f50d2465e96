"""The questions of the two papers, each a function from a study to a section of its report."""
