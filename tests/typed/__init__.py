"""What a type checker says of a user's code: `make lint` checks these files strictly."""
