"""What the commands of Thaw share: the terminal. Takes reports of progress, gives lines; may import all other rooms."""
