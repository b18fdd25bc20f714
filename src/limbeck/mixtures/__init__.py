"""How often each domain of the data is drawn: from the domains' losses to their shares."""
