"""Training: one batch to losses (`step`), one readable loop (`loop`), what it keeps (`checkpoint`, `log`)."""
