"""The contracts: batch, outputs, term, objective, errors. No method stands here."""
