"""What runs at an organisation: its data, its training, its recommender. Never imports server."""
