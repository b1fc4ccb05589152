"""Who may say what: verification of bundles at install and at every load."""
