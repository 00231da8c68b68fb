"""The gateway's side of the engines: which worker serves which model."""
