module imsup.example/guest

go 1.19
