"""What each rule of the labelling is worth: the same stored outputs, labelled in many ways."""
