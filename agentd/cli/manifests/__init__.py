"""What ``agentd manifest`` prints, one module for each target."""
