"""What is wrong with the data: measured on the files, the pixels and, where there are any, stored features."""
