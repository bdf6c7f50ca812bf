"""`mmi bench gpu`: everything that wants a card to be measured, in one command."""
