"""Every measured claim as a command: what is run, how it is timed, and the pure statistics of the outcome."""
