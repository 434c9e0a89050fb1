"""What a user inspects: captured tensors, snapshot, focus, memory and time, custom Functions."""
