"""Rejection sampling: answers are drawn, rated and chosen, and what is chosen is a data set.  It is not a loss."""
