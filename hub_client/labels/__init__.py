"""From points in the latent to labels and how far to trust them."""
