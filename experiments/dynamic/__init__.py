"""Dynamic networks tried on data: what each way of leaving early loses, and the time it takes."""
