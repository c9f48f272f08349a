"""What a run leaves on the Hub: the record it can be repeated from, the card, and the publishing of both."""
