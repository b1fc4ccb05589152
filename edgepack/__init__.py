"""The base station: train, prove, pack, sign, bring journals home, learn, ship the next bundle."""
