"""One page about some runs: read from their folders, drawn as SVG, written as HTML that needs no network."""
