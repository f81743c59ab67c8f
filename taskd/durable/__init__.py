"""Tasks that last: with an identity, a log of events and a store, they outlive whoever asked for them."""
