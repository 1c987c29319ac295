"""Recommendations over HTTP at one organisation: the service and its page."""
