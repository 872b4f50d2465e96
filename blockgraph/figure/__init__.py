"""Figures of graphs: lanes and rows of our own, written as DOT, TikZ and Mermaid, drawn by Graphviz."""
