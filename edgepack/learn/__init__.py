"""What came home says whether the inputs changed, how good the model is, and what comes next."""
