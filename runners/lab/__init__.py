"""What a study shows: measures as pure functions, and tables and figures made of them."""
