"""What sends a study from the clinic to the hub: thinwire, and what is used today. All have the interface of `peer`."""
