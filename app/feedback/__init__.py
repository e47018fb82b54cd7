"""Feedback: what people think of answers, and what may be concluded from it."""
