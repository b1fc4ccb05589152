"""One model, sanely fed: session, gate, rows, checks, sentinel."""
