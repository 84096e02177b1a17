"""Pages for people: plain HTML and CSS, no scripts."""
