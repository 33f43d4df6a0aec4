"""Pure maths that algorithms share: undivided means, packed answers, pairs of them."""
