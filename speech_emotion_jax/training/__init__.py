"""Fine-tuning: a recipe, its data, its loss and its optimizer, and the loop that runs them."""
